import { thumbnailUrl } from "../api";
import { t } from "../i18n";
import { film, filmId } from "../state";
import type { Film } from "../types";

export function FilmStrip({ images }: { images: Film[] }) {
  return (
    <div class="strip" role="group" aria-label={t("films_of_study")}>
      {images.map((image, at) => (
        <button
          type="button"
          key={image.id}
          aria-pressed={image.id === film.value?.id}
          title={image.name}
          aria-label={[image.view_position, image.name || `${t("film")} ${at + 1}`].filter(Boolean).join(", ")}
          onClick={() => (filmId.value = image.id)}
        >
          {image.viewable ? <img src={thumbnailUrl(image.id)} alt="" /> : <span class="no-thumb" />}
          <span>{image.view_position ?? at + 1}</span>
        </button>
      ))}
    </div>
  );
}
